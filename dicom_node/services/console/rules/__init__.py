"""Rules at the console: what they make of recent studies, and the form that makes one."""
