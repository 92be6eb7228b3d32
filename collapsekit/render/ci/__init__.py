"""One file a format that systems of CI read: the gate's checks, written from its report."""
