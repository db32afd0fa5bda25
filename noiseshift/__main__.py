"""`python -m noiseshift` and `torchrun -m noiseshift`: the command line."""

if __name__ == "__main__":
    from noiseshift.cli import main

    main()
