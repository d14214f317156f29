"""The in-character classifier's heads, of growing cost behind one interface: linear, cross-encoder, language model."""
