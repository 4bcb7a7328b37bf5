"""The ground everything stands on: records, configuration, runs, video, datasets, tracking. Knows nothing of Ray."""
