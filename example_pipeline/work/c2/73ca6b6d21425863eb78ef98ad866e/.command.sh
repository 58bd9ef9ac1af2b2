#!/bin/bash -ue
mkdir -p input
job-dispatch --input_directory=input --output_directory=jobs --overwrite=1 --query_in_jobs=0 --report_directory=report --metadata_catalog="$(readlink -f 'named1/catalog.jsonl')" '--docdb_query={"name": {"$regex": "^behavior_.*_processed_"}}' '--file_extension=.nwb'
