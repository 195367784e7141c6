"""Throwaway servers that a rehearsal restores to: started by us, alone in a private folder, always removed."""
