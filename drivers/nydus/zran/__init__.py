"""References to gzip layers as they are (``oci_ref``): where inflating may begin, and which chunk lies behind which place."""
