"""What may draw a box, fitted and judged on five folds by patient."""
