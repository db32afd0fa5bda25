"""The words of variants, for messages and for a help text, which imports nothing else for them."""

VARIANTS = (
    "fp32, bf16, fp16, time=bf16, time=fp16, compile[=BACKEND], int8, steps=N, lora=FILE[:SCALE], cache=first-block[:THRESHOLD], "
    "cache=taylorseer[:INTERVAL], cache=pab[:RANGE], cache=faster[:RANGE], cache=mag[:THRESHOLD]"
)
