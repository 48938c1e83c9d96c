"""vcm's Hydra configuration groups."""
