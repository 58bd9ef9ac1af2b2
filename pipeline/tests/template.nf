// A pipeline of the shape that Code Ocean generates: folders go from step to step, and each capsule finds its own
// code, data and results below `capsule`.

params.code = null
params.input_files = null

process DISPATCH {
    input:
    path 'capsule/data/input_files'

    output:
    path 'capsule/results/*', emit: to_wrapper

    script:
    """
    mkdir -p capsule/code capsule/results
    cp -R '${params.code}/run' '${params.code}/run_capsule.py' '${params.code}/utils.py' capsule/code
    cp -R '${params.code}/job_dispatch' capsule/code
    cd capsule/code
    ./run --docdb_query query.json --metadata_catalog catalog.jsonl --num_parallel_workers 2 --file_extension ''
    """
}

process WRAPPER {
    publishDir 'loaded', mode: 'copy'

    input:
    path 'capsule/data/job_dict'

    output:
    path 'jobs-*.txt'

    script:
    """
    cat capsule/data/job_dict/*.json > "jobs-${task.index}.txt"
    """
}

workflow {
    DISPATCH(channel.fromPath(params.input_files))
    WRAPPER(DISPATCH.out.to_wrapper.flatten())
}
