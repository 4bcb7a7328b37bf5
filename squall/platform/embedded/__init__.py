"""The data set and the policy that ship with Squall: real film and camera frames, coloured shapes, a 1 M-parameter model."""
