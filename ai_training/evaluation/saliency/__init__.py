"""Do heat maps show where a finding is, and do they depend on what the network learned?"""
