"""Bitcoin script: opcodes, numbers, signatures and the interpreter of every era."""
