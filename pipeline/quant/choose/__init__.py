"""Choose which GEMMs are worth int8, before anything is calibrated."""
