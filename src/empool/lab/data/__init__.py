"""Where images and labels come from: `load.load_data` gives a `sets.DataSet` for a name, a folder or a factory."""
