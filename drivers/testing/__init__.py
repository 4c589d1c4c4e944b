"""What the test suite of a driver needs: a repository in memory, small images, and the suite that every driver passes."""
