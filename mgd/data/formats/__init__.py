"""Labels as annotation tools write them, and back.

`export.py` says what a reader returns: photos with their regions, drawn when asked for. A file for each format has
`read(source, reading) -> Export`, and where mgd writes it `write_one` and `write_rest`:

    index  rgb               masks of values or colours          cvat  coco_stuff  panoptic    masks in a tool's folders
    coco  yolo  labelme  label_studio  supervisely               polygons, run-length codes and masks in JSON or text

What they share: `shapes.py` (masks of polygons and the like), `brush.py` (Label Studio's code), `masks.py` (pairs and
values of masks). `rules.py` merges, drops and ignores classes by name; `convert.py` makes a data set of an export,
`back.py` makes pre-annotations of label maps. `table.py` has the formats by their names.
"""
