"""One study and lists of them: searches, pictures, what stands in results, the way they took."""
