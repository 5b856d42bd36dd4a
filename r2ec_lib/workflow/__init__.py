"""The command line: recipes, runs, the stage cache and the report. It executes notebooks and imports no science."""
