"""People sign in to the console with the accounts of their hospital, by OpenID Connect."""
