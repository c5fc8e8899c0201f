"""The classes that ptychodus 1.7 drives training and inference by."""
