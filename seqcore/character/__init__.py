"""The character model: its text, its layers, and the run that `seqcore train` keeps."""
