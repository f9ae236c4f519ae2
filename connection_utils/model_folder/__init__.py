"""Is this folder a usable BERT? Check it, read it safely, save one."""
