"""RecPO: the objective as pure functions, the trainer as a delta on TRL, and trainings as jobs of a run."""
