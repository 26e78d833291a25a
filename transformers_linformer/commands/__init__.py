"""The commands, one module each: arguments, and the steps in their order."""
