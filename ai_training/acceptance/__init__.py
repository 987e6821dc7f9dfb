"""A site's acceptance test of a chest model: fitted and measured on its own images, with a page to sign."""
