"""`python -m chorus`, and `accelerate launch -m chorus train ...` on several devices."""

from chorus.cli.main import main

if __name__ == "__main__":
    main()
