"""Ways to locate a finding, fitted and evaluated on five folds by patient."""
