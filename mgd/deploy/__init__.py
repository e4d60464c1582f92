"""From a checkpoint to what runs elsewhere: prediction on photos, exported files, their cards, INT8, a web page.

taken      source (a checkpoint with its classes and config), media (photos, folders, videos)
made       predict (label maps); export (a file), formats (how each is written), int8/, card (what lies beside a file)
published  hub (a folder for the Hugging Face Hub), page and web/ (in a browser)
proven     comparison (with the network), verify (by the card), runtime (runs files of every format)
measured   profile (networks), benchmark (files), timing
"""
