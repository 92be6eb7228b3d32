"""One file a report: what it says, as a document. A view bears the name of the module that holds its report."""
