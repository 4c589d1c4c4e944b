from drivers.nydus.driver import NydusDriver

__all__ = ["NydusDriver"]
