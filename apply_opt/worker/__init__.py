"""What runs in the processes that execute a target's code. Imports nothing of apply-opt, and of the rest only what it is told."""
