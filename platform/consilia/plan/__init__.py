"""Plans: frozen, strict descriptions of data, spaces, recipes, profiles and studies."""
