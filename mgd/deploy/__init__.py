"""From a checkpoint to what runs elsewhere: prediction on photos, exported files, their cards, INT8, a web page."""
