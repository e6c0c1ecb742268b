"""The kernels of the backend ``cython``, compiled when fastrnn was installed: see `fastrnn.backends.cython_`."""
