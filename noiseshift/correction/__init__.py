"""What corrects noise shift: noise awareness guidance by name, and the alternatives that it is compared with."""
