"""Schemas of conf/: what each command's configuration may hold, as plain dataclasses."""
