"""A bit-true integer reference: what XNNPACK computes from a converted graph, in ExecuTorch and in LiteRT.

``graph.IntegerGraph`` executes a folded PT2E graph in integers. One operation is one function, its docstring states the rule:
``convolution`` (plain, depthwise, grouped, transposed, linear), ``elementwise``, ``resampling``, ``reduction`` and ``moves``.
``differences`` names the operations for which an engine follows another rule. Needs torch, no engine.
"""
