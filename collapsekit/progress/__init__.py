"""How far a long job is: its stages, and the time that is left"""
