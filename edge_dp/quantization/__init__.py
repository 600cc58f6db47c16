"""The quantiser shared by training and converters. Depends on torchao, on no engine."""
