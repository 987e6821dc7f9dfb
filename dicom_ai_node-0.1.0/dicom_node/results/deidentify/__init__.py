"""Results for those who may not know the patient (PS3.15 Annex E): profile, pseudonyms, leaks."""
