"""Image sets as they are published and a site's own, a module for each family, all read into one record."""
