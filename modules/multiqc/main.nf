process MULTIQC {
    tag 'report'

    input:
    tuple path(content), path(versions), path(config)

    output:
    path 'multiqc_report.html', emit: report
    path 'multiqc_report_data', emit: data
    // no versions here: this task waits for the end of that topic

    script:
    """
    multiqc ${content} ${versions} --config ${config} --config ${content}/multiqc_order.yml --filename multiqc_report.html --force --no-version-check
    """

    stub:
    """
    touch multiqc_report.html
    mkdir multiqc_report_data
    """
}
