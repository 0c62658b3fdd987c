"""Levels compared: where a device leaves the reference, how far the reference is from float, where cycles
go."""
