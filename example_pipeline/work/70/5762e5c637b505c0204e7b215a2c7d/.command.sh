#!/bin/bash -ue
python collect.py records.json
