"""Published rated data sets as one-aspect pairs with a conflict level: ``pdray data``."""
