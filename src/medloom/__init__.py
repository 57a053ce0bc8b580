"""MedLoom."""
