"""Results for receivers that must not know the patient (PS3.15 Annex E): profile, pseudonyms, leaks."""
