"""The diffraction model as pure functions on tensors.

Nothing here knows a configuration, a network or a training loop.  Shapes use these letters:
``...`` any leading axes (usually batch), ``K`` frames that share one canvas, ``M`` probe modes,
``N`` side of a frame, ``(H, W)`` rows and columns of a canvas.
"""
