"""What the model may call a tensor of the core where host and core meet."""

__all__ = ["BOUNDARY", "INTEGERS", "SCALED"]

#: NumPy's names of types whose numbers int8 stands for by scale and zero point; of 'bool' 0 and 1.
SCALED = ("float16", "float32", "float64", "bool")
#: Types whose codes are the numbers; those of uint8 are held minus 128.
INTEGERS = ("int8", "uint8")
BOUNDARY = (*SCALED, *INTEGERS)
