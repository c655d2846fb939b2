"""What joins the rooms: export, the demo, and whatever needs more than one of them at once."""
