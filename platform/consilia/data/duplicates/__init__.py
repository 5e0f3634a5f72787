"""Pictures that stand in a store more than once, bit by bit or nearly so."""
