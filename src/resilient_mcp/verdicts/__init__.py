"""How failures are judged: the verdict, the classifier and its tables."""
