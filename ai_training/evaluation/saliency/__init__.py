"""Do heat maps show where a finding is, and do they come from what was learned?"""
