"""`python -m vlarl` is `vlarl`."""

from vlarl.cli.main import main

if __name__ == "__main__":
    main()
